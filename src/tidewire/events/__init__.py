"""Events of the channels of all nodes for an application: the comings and goings of users."""
