//! What the targets run. `cargo test` runs it too, on the corpora.

#[path = "../../tests/suite/fuzzed.rs"]
pub mod fuzzed;
#[path = "../../tests/suite/oracle.rs"]
pub mod oracle;
