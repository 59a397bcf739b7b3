//! Compile-time proof that a type does not implement a trait.

/// Fails to compile when the type implements the trait: `some_item` then has two candidates, and inference picks
/// neither. tests/compile_fail/assert_not_impl_rejects_a_sync_type.rs shows that it does.
macro_rules! assert_not_impl {
    ($type:ty, $trait:path) => {
        const _: fn() = || {
            #[allow(dead_code)]
            trait AmbiguousIfImplemented<Case> {
                fn some_item() {}
            }
            #[allow(dead_code)]
            struct Implemented;
            impl<T: ?Sized> AmbiguousIfImplemented<()> for T {}
            impl<T: ?Sized + $trait> AmbiguousIfImplemented<Implemented> for T {}
            let _ = <$type as AmbiguousIfImplemented<_>>::some_item;
        };
    };
}
