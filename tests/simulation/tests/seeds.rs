//! A few hundred seeds, and that the simulation can be believed: a seed replays, and mistakes are found.
