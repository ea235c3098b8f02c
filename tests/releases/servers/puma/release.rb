# What this release does, good or bad: the second word of the file RELEASE.
#
# The link to it may lead elsewhere by the time of a restart, so the directory is looked up
# once. A bad release that serves writes each request that it begins to handle to the
# ledger, and its own end: what its clients lose then is its own doing.
module Release
  DIRECTORY = File.dirname(File.realpath(__FILE__))
  LEDGER = File.join(File.dirname(DIRECTORY), 'ledger')
  NAME, KIND = File.read(File.join(DIRECTORY, 'RELEASE')).split

  # In one write, as others write there as well.
  def self.write(what)
    File.open(LEDGER, File::WRONLY | File::CREAT | File::APPEND) { |file| file.syswrite("#{NAME} #{what}\n") }
  end

  # Ends the master and its workers: one process group.
  def self.die
    write("dies #{Process.getpgrp} #{Process.clock_gettime(Process::CLOCK_REALTIME, :millisecond)}")
    Process.kill(:KILL, 0)
  end

  # What gems and caches take in an application that has grown.
  def self.boot
    sleep 2
    raise 'the settings of this release are wrong' if KIND == 'exits'
    sleep if KIND == 'hangs'
    Thread.new { sleep 3; die } if KIND == 'dies'
  end

  # Before anything else is done about a request.
  def self.begin(number)
    write("begins #{number}") if %w[dies crashes].include?(KIND)
    die if KIND == 'crashes'
  end
end
