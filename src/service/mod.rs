//! How others supervise this process: the service manager that started it, and the pid file.

pub mod manager;
mod patience;
pub mod pid_file;

pub use manager::ServiceManager;
