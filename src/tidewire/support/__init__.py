"""What belongs to the event loop and the process, and knows no word of ours."""
