//! What the system gives a program: its arguments, CPUs, CPU time, descriptors, memory, ways to wait.

pub mod arguments;
pub mod cgroup;
pub mod cpu_list;
pub mod descriptors;
pub mod memory;
pub mod runtime;
pub mod trial;
