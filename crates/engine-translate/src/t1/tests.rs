//! Whole programs under T1.
