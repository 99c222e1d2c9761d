# frozen_string_literal: true

require "helper"

return if Sabir::Connection::VERSION_5 # which reads and writes itself

# However the bytes of the replies come, and whatever there is to send: what redis gem 4.8 leaves to us.
class ConnectionTest < Minitest::Test
  LONG = "\r\n\xff$3" * 12_000
  REPLIES = [1, "OK", nil, "", "\r\n", LONG, -7, [2, "x" * 70_000, nil, ["QUEUED"]], "end"].freeze

  # A socket of the gem's, from which the bytes come in pieces of so many.
  Piecemeal = Struct.new(:bytes, :piece, :written) do
    include Redis::Connection::SocketMixin if defined?(Redis::Connection::SocketMixin)

    def read_nonblock(most, buffer = nil, exception: true) # rubocop:disable Lint/UnusedMethodArgument
      (buffer || String.new).replace(bytes.slice!(0, [most, piece].min))
    end

    def write(bytes) = self.written = bytes
  end

  def test_replies_come_in_pieces
    [1, 2, 3, 7, 1_000, 65_535, 65_536, 1_000_000].each do |size|
      driver = driver(Piecemeal.new(REPLIES.map { |reply| resp(reply) }.join.b, size))
      read = Array.new(REPLIES.size) { driver.read }
      assert_equal binary(REPLIES), binary(read), "in pieces of #{size}"
    end
  end

  def test_an_error_is_a_reply
    driver = driver(Piecemeal.new("-WRONGTYPE no list\r\n:1\r\n".b, 5))
    error = driver.read
    assert_instance_of Redis::CommandError, error
    assert_equal "WRONGTYPE no list", error.message
    assert_equal 1, driver.read
  end

  def test_all_commands_are_one_write
    commands = [["MULTI"], ["RPUSH", "k", "\u00e9", "\xff".b, LONG], ["EXEC"]]
    driver(socket = Piecemeal.new("", 1)).write_all(commands)
    assert_equal commands.map { |command| resp(command) }.join.b, socket.written.b
  end

  private

  def driver(socket) = Redis::Connection::Ruby.new(socket).extend(Sabir::Connection::Buffered)

  def resp(value)
    case value
    when nil then "$-1\r\n"
    when Integer then ":#{value}\r\n"
    when "OK", "QUEUED" then "+#{value}\r\n"
    when Array then "*#{value.size}\r\n".b + value.map { |part| part.is_a?(String) ? bulk(part) : resp(part) }.join.b
    else bulk(value)
    end
  end

  def bulk(text) = "$#{text.bytesize}\r\n".b + text.b + "\r\n".b

  def binary(value)
    return value.map { |part| binary(part) } if value.is_a?(Array)

    value.is_a?(String) ? value.b : value
  end
end
