//! Judges of histories: each returns the violations it found, in words that show the evidence.
//!
//! [`register`] is a linearizability checker for frames that are replaced and compared-and-set, [`set`] judges frames
//! that are added to a session which is read as a whole, [`visibility`] what a search must find. Each is tested on
//! histories that are known to be good and known to be bad, because a judge that never convicts proves nothing.

pub mod register;
pub mod set;
pub mod visibility;
