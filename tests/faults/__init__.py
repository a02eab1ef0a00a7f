"""Commands x faults: what is left, said and returned when the surroundings break (see `engine`)."""
