//! Checks of the source tree.

mod dependencies;
mod invariants;
mod language;
mod modules;
mod unused;
