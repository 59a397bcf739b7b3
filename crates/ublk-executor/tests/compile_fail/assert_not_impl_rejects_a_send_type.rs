//! Negative control: the macro that guards executors and handles sees a type that is `Send`.

#[macro_use]
#[path = "../../src/assert_not_impl.rs"]
mod assert_not_impl;

assert_not_impl!(u64, Send);

fn main() {}
