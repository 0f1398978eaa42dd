//! Client of the local platform.
