"""An FTP server with four ports for its passive mode."""
import os, sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

host, port = sys.argv[1].rsplit(":", 1)
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_anonymous(os.getcwd())
FTPHandler.passive_ports = range(8010, 8014)
FTPHandler.banner = f"pid={os.getpid()}"
FTPServer((host, int(port)), FTPHandler).serve_forever()
