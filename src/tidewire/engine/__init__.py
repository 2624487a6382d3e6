"""The engine of one process: from the arrival of a publication to the bytes that its subscribers are given."""
