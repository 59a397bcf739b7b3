//! Negative control: the macro that guards the ends sees a type that is `Clone`.

#[macro_use]
#[path = "../../src/assert_not_impl.rs"]
mod assert_not_impl;

assert_not_impl!(u64, Clone);

fn main() {}
