//! What needs one thread only, for Miri: the rules on pointers.
