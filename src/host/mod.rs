//! What the machine and its kernel grant: CPUs, descriptors, ways to wait.

pub mod cpu_list;
pub mod descriptors;
pub mod trial;
