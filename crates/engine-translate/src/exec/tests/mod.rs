//! Tests of the integer instructions: against the processor itself, and of what it can't be asked about.

mod control;
mod native;
mod speed;
mod strings;
