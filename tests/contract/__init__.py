"""Every row of the contract, over real sockets against the real server process."""
