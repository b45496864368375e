//! The payload sizes, in bytes, that every benchmark measures: the two sides of each step of the
//! length encoding (125 and 126; 65,536), and what lies between.

pub(crate) const SIZES: [usize; 7] = [16, 64, 125, 126, 1024, 16_384, 65_536];
