"""The parts that belong to the event loop and the process, and know no word of ours."""
