//! The only place where unsafe is allowed.
#![allow(unsafe_code)]

pub mod fd;
