//! What the library promises, seen from outside. One module per part.

mod server;
