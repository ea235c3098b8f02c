//! How others supervise this process: the service manager that started it, and the pid file.

mod extension;
pub mod manager;
pub mod pid_file;

pub use manager::ServiceManager;
