//! How numbers, warnings and what a server says are written for people, whichever part of the program
//! writes them.

pub(crate) mod excerpt;
pub mod numbers;
pub mod shortfall;
pub mod stderr;
pub mod warning;
