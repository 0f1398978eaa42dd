//! A platform of simulated functions: the local platform's API and metrics, in virtual time. Owns the hour of its world; must not decide.

fn main() {}
