//! What is done with each register of a list: the lists are the architectures' (`arch/<architecture>/{guest,world}.rs`).

/// Saves registers to their places in a [`hypercall::Registers`].
macro_rules! save_registers {
    ($r:ident: $($place:ident $register:tt,)*) => { $($r[Sys::$place] = read_register!($register);)* };
}
/// Loads them from there.
macro_rules! load_registers {
    ($r:ident: $($place:ident $register:tt,)*) => { $(set_register!($register, $r[Sys::$place]);)* };
}

/// Registers that decide what the world below the hypervisor may: one world's.
macro_rules! controls {
    ($($(#[$doc:meta])* $field:ident $register:tt,)*) => {
        #[derive(Clone, Copy)]
        struct Controls { $($(#[$doc])* $field: u64,)* }

        impl Controls {
            const NONE: Self = Self { $($field: 0,)* };
            fn save() -> Self {
                Self { $($field: read_register!($register),)* }
            }
            fn load(&self) {
                $(set_register!($register, self.$field);)*
                super::isb();
            }
        }
    };
}
