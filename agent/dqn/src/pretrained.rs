//! The bundled model: a checkpoint like any other, whose card holds the command that reproduces it.

use std::sync::LazyLock;

use crate::checkpoint::Checkpoint;

/// The bundled model, used unless another is configured.
static MODEL: LazyLock<Checkpoint> = LazyLock::new(|| {
    let bytes = include_bytes!("../models/pretrained.dqn");
    Checkpoint::from_bytes(bytes).expect("a test reads it")
});

/// The bundled model, used unless another is configured.
#[must_use]
pub fn pretrained() -> &'static Checkpoint {
    &MODEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_small_matches_this_program_and_has_a_card() {
        let model = pretrained();
        model.check().expect("it was trained for what this program has");
        assert!(model.training.is_none() && model.to_bytes().len() < 600_000);
        let card = model.header.card.as_ref().expect("a card");
        assert!(card.command.starts_with("qscale train ") && card.evaluations.len() >= 2, "{card:?}");
    }
}
