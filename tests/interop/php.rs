//! FastCGI: php-fpm.

use crate::driver::upgrade_under_load;
use crate::protocol::Protocol;
use crate::server::unlisted;

#[test]
fn php_fpm() {
    upgrade_under_load(
        &unlisted("-b 127.0.0.1:8000 -E FPM_SOCKETS=127.0.0.1:8000=3 --ack notify --stop-signal QUIT -- php-fpm8.2 -n -F -y php-fpm.conf")
            .speaks(Protocol::FastCgi("answer.php")),
    );
}
