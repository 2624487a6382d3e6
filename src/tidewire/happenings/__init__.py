"""Tells an application what happens on the channels of all nodes: the comings and goings of users."""
