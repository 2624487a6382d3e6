"""What happens on the channels of all nodes, told to the application: who came and went, which channels are in use."""
