//! The model that comes along. Owns where it lies; it is a checkpoint like any other, with the command on its card that trains it again.

use std::sync::LazyLock;

use crate::checkpoint::Checkpoint;

/// The model that decides where no other is named.
static MODEL: LazyLock<Checkpoint> = LazyLock::new(|| {
    let bytes = include_bytes!("../models/pretrained.dqn");
    Checkpoint::from_bytes(bytes).expect("a test reads it")
});

/// The model that decides where no other is named.
#[must_use]
pub fn pretrained() -> &'static Checkpoint {
    &MODEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_matches_this_program_and_says_how_it_was_made() {
        let model = pretrained();
        model.check().expect("it was trained for what this program has");
        assert!(model.training.is_none() && model.to_bytes().len() < 600_000);
        let card = model.header.card.as_ref().expect("a card");
        assert!(card.command.starts_with("qscale train ") && card.judged.len() >= 2, "{card:?}");
    }
}
