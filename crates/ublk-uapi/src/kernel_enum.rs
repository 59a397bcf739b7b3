//! Declares enums whose values and names are the kernel's.

/// A number that the running kernel used and Linux 7.2's header does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{code} is no {prefix}* number of Linux 7.2; a newer kernel may have added it: update this library or ask the kernel for fewer features"
)]
pub struct UnknownCode {
    /// What the kernel's names of this kind begin with, such as `UBLK_IO_OP_`.
    pub prefix: &'static str,
    /// The number as it came.
    pub code: u32,
}

/// `enum Name: repr, "KERNEL_PREFIX_" { Variant = value => "REST_OF_KERNEL_NAME", … }`
macro_rules! kernel_enum {
    (
        $(#[$doc:meta])*
        enum $Name:ident: $repr:ident, $prefix:literal {
            $($(#[$variant_doc:meta])* $Variant:ident = $value:literal => $rest:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $Name {
            $(
                $(#[$variant_doc])*
                #[doc = concat!("\n\nKernel: `", $prefix, $rest, "`.")]
                $Variant = $value,
            )+
        }

        impl $Name {
            /// Every variant, in the order of the numbers in the header.
            pub const ALL: &[Self] = &[$(Self::$Variant,)+];

            /// The kernel's number.
            pub const fn code(self) -> $repr {
                self as $repr
            }

            /// The kernel's name without its common prefix, such as `WRITE_ZEROES`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => $rest,)+
                }
            }

            /// The kernel's name, as the header spells it.
            pub const fn kernel_name(self) -> &'static str {
                match self {
                    $(Self::$Variant => concat!($prefix, $rest),)+
                }
            }
        }

        impl TryFrom<$repr> for $Name {
            type Error = $crate::UnknownCode;

            #[inline]
            fn try_from(code: $repr) -> Result<Self, Self::Error> {
                match code {
                    $($value => Ok(Self::$Variant),)+
                    _ => Err($crate::UnknownCode { prefix: $prefix, code: u32::from(code) }),
                }
            }
        }
    };
}

pub(crate) use kernel_enum;
