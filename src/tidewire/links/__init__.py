"""Links: how bytes reach one client, and come from it."""
