//! FastCGI: php-fpm.

use crate::driver::upgrade_under_load;
use crate::protocol::Protocol;
use crate::server::server;

#[test]
fn php_fpm() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --export php-fpm --ack notify -- php-fpm8.2 -n -F -y php-fpm.conf")
            .speaks(Protocol::FastCgi("answer.php")),
    );
}
