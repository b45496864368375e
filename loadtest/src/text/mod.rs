//! How numbers and warnings are written for people, whichever part of the program writes them.

pub mod numbers;
pub mod shortfall;
pub mod warning;
