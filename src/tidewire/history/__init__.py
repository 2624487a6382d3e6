"""Reads of what channels keep, as readers are shown it: in steps, one for all that wait, joined with what comes."""
