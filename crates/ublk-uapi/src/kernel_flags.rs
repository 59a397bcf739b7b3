//! Declares flag sets whose bits and names are the kernel's.

/// A `#[repr(transparent)]` flag set over an integer: the methods of [`bitflags`], the byte views of
/// [`zerocopy`], and names in `Debug` and `Display`.
///
/// Bits without a name are kept: a kernel newer than this library may set them.
macro_rules! kernel_flags {
    (
        $(#[$doc:meta])*
        struct $Name:ident: $bits:ident, $prefix:literal {
            $($(#[$($flag_doc:tt)*])* const $FLAG:ident = $value:expr;)+
        }
    ) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $Name($bits);

        bitflags::bitflags! {
            impl $Name: $bits {
                $(
                    $(#[$($flag_doc)*])*
                    #[doc = concat!("\n\nKernel: `", $prefix, stringify!($FLAG), "`.")]
                    const $FLAG = $value;
                )+
            }
        }

        impl $Name {
            /// What the kernel's names of these flags begin with.
            pub const KERNEL_PREFIX: &'static str = $prefix;
        }

        impl core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($Name), "({})"), self)
            }
        }

        /// Names joined by ` | `, bits without a name in hexadecimal.
        impl core::fmt::Display for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                bitflags::parser::to_writer(self, f)
            }
        }
    };
}

pub(crate) use kernel_flags;
