# An application that takes seconds to load, and answers with its release and the number
# of the request.
require_relative 'release'

Release.boot

Application = lambda do |env|
  number = env['PATH_INFO'].delete_prefix('/')
  Release.begin(number)
  body = "release #{Release::NAME} request #{number}\n"
  [200, { 'Content-Type' => 'text/plain', 'Content-Length' => body.bytesize.to_s }, [body]]
end
