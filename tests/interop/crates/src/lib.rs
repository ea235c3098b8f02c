//! What every server here has in common: the one answer that it gives.

/// The generation that answers and the supervisor that it was told of.
pub fn answer() -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    format!(
        "generation {} supervisor {}\n",
        variable("GRACEFUL_RUN_GENERATION"),
        variable("GRACEFUL_RUN_PID")
    )
}
