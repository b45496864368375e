//! Open files that are kept back while connections take all others, so that afterwards `/proc` can
//! still be read: what a process uses would otherwise be unknown just where the limit is too low.

use std::fs::File;

/// What reading `/proc` has open at the same time: a directory, and a file in it.
const COUNT: usize = 2;

/// Open files that are good for nothing but being closed, by a drop.
#[derive(Debug)]
pub(crate) struct DescriptorReserve {
    _files: [Option<File>; COUNT],
}

impl DescriptorReserve {
    /// Takes them, where the limit allows that.
    pub(crate) fn take() -> Self {
        Self { _files: [(); COUNT].map(|()| File::open("/dev/null").ok()) }
    }
}
