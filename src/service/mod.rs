//! The service manager that has started us, if there is one, and the pid file:
//! whatever others supervise us by.

pub mod manager;
mod patience;
pub mod pid_file;

pub use manager::ServiceManager;
