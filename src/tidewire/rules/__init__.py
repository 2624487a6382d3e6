"""Rules: functions of the application that decide on the permissions of users in channels, and that answer calls."""
