//! The filter of a request to sock_diag(7), by ports: the kernel then passes no other socket.

/// The attribute that holds it (linux/inet_diag.h).
const INET_DIAG_REQ_BYTECODE: u16 = 1;

/// Of which end of a connection a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    Local,
    /// The peer's.
    Remote,
}

/// The request with a filter that makes the kernel leave out other ports of this side.
pub fn with_filter(mut body: Vec<u8>, side: Side, ports: &[u16]) -> Vec<u8> {
    let filter = port_filter(side, ports);
    body.extend((4 + filter.len() as u16).to_ne_bytes());
    body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend(filter);
    body
}

/// Its bytecode (struct inet_diag_bc_op): for each port the comparisons >= and <=, and a jump to the
/// end. A socket for which the program ends there is accepted; a jump beyond the end rejects it.
fn port_filter(side: Side, ports: &[u16]) -> Vec<u8> {
    const JMP: u8 = 1;
    // INET_DIAG_BC_S_GE and the next, INET_DIAG_BC_D_GE and the next.
    let (at_least, at_most) = match side {
        Side::Local => (2, 3),
        Side::Remote => (4, 5),
    };
    /// The code of one port: two comparisons, each with its operand in a second word, and the jump.
    const STEP: u16 = 20;
    let mut program = Vec::with_capacity(ports.len() * usize::from(STEP));
    let mut word = |code: u8, yes: u8, no: u16| {
        program.extend([code, yes]);
        program.extend(no.to_ne_bytes());
    };
    let mut left = ports.len() as u16 * STEP;
    for &port in ports {
        let last = left == STEP;
        // A mismatch of the last port jumps beyond the end.
        let past_end = if last { 4 } else { 0 };
        word(at_least, 8, STEP + past_end);
        word(0, 0, port);
        word(at_most, 8, STEP - 8 + past_end);
        word(0, 0, port);
        word(JMP, 4, left - (STEP - 4));
        left -= STEP;
    }
    program
}
