"""How fast and in how much memory: ours beside other libraries and beside the limits of the machine."""
