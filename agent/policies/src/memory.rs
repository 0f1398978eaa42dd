//! The memory of a policy about one function. Owns how it is stored; must not interpret it.
//!
//! A policy chooses the type of its memory and fetches it with [`Memory::of`], so that a policy can be added without a
//! change here. A memory is never written down: a service that starts shows its policy the States of the last
//! [`crate::Policy::lookback`].

use std::any::Any;
use std::fmt::Debug;

/// Data that a policy keeps about one function between two decisions; empty at first.
#[derive(Debug, Default)]
pub struct Memory(Option<Box<dyn MemoryType>>);

impl Memory {
    /// The memory as a `T`; reset to the default of `T` where it is empty or belongs to another policy.
    #[expect(private_bounds, reason = "every type with the bounds of its only implementation will do")]
    pub fn of<T: MemoryType + Default>(&mut self) -> &mut T {
        let is_own = |stored: &dyn MemoryType| (stored as &dyn Any).is::<T>();
        if !self.0.as_deref().is_some_and(is_own) {
            self.0 = Some(Box::new(T::default()));
        }
        let stored = self.0.as_deref_mut().expect("it was set just before");
        (stored as &mut dyn Any).downcast_mut().expect("its type was checked just before")
    }

    /// Whether no policy has used it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether both are empty, or hold data of the same type.
    #[cfg(test)]
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let kind = |memory: &Self| memory.0.as_deref().map(|stored| (stored as &dyn Any).type_id());
        kind(self) == kind(other)
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self(self.0.as_deref().map(MemoryType::duplicate))
    }
}

impl PartialEq for Memory {
    fn eq(&self, other: &Self) -> bool {
        match (self.0.as_deref(), other.0.as_deref()) {
            (Some(own), Some(other)) => own.equals(other),
            (own, other) => own.is_none() && other.is_none(),
        }
    }
}

/// A type that can be a memory.
trait MemoryType: Any + Debug + Send + Sync {
    fn duplicate(&self) -> Box<dyn MemoryType>;
    fn equals(&self, other: &dyn MemoryType) -> bool;
}

impl<T: Any + Debug + Clone + PartialEq + Send + Sync> MemoryType for T {
    fn duplicate(&self) -> Box<dyn MemoryType> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn MemoryType) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_one_type_at_a_time() {
        let mut memory = Memory::default();
        assert!(memory.is_empty());
        *memory.of::<u32>() = 7;
        assert_eq!(*memory.of::<u32>(), 7);
        assert_eq!(memory.of::<String>(), "", "reset for another type");
        assert_eq!(*memory.of::<u32>(), 0, "and the first value is gone");
    }

    #[test]
    fn is_compared_by_type_and_value() {
        let of = |value: u32| {
            let mut memory = Memory::default();
            *memory.of::<u32>() = value;
            memory
        };
        assert_eq!(of(1), of(1).clone());
        assert_ne!(of(1), of(2));
        assert_ne!(of(0), Memory::default());
        let mut text = Memory::default();
        text.of::<String>();
        assert_ne!(of(0), text);
    }
}
