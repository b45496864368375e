//! What each command does: a run, a search, a comparison, idle connections, a merge of results.

pub mod compare;
pub mod idle;
pub mod merge;
pub mod run;
pub mod search;
