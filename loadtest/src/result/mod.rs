//! What a run comes to: reports as text and as JSON, exports, baselines, and what is shown while it
//! runs.

pub mod baseline;
pub mod check;
pub mod export;
pub mod host;
pub mod layers;
pub mod measurement;
pub mod progress;
pub mod report;
mod screen;
pub mod usage;
