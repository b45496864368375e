//! What the system gives a program: its arguments, CPUs, descriptors, memory, ways to wait.

pub mod arguments;
pub mod cpu_list;
pub mod descriptors;
pub mod memory;
pub mod runtime;
pub mod trial;
