//! What each command does: a run, a search, a comparison, idle connections, a churn, a merge of
//! results; and what is measured before a run, the generator's own floor.

pub mod churn;
pub mod compare;
pub mod floor;
pub mod idle;
pub mod merge;
pub mod run;
pub mod search;
pub mod trial;
