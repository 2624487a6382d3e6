"""Rules: functions of the application that say what a user may do in a channel, and that answer calls."""
