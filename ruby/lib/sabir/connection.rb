# frozen_string_literal: true

require "openssl"
require "redis"
require_relative "commands"

module Sabir
  # Redis's clock, carried on by a monotonic clock [SABIR-TIME-1].
  class Clock
    # @return [Float] seconds since some moment; never jumps
    def self.monotonic = Process.clock_gettime(Process::CLOCK_MONOTONIC)

    # @param time [Array(String, String)] what TIME has just answered: seconds and microseconds
    # @param sent [Float] when it was asked, by {monotonic}: Redis read its clock between then and now
    def set(time, sent = Clock.monotonic)
      now = Clock.monotonic
      @set = [time[0].to_i + (time[1].to_i / 1e6) - ((sent + now) / 2), now].freeze # at once: no lock is needed
    end

    # @return [Integer] ms since 1970
    def now_ms = ((@set[0] + Clock.monotonic) * 1000).floor

    # @return [Boolean] whether TIME has been asked in the last so many seconds
    def fresh?(seconds) = !@set.nil? && Clock.monotonic - @set[1] < seconds
  end

  # One connection to Redis, for one user at a time. Both shells stand on it. It hides what differs between versions
  # 4.8 and 5 of the redis gem, and never sends anything twice.
  class Connection
    # The connection broke, or never came about: nobody knows whether Redis executed what was sent.
    class Lost < StandardError; end

    # Redis answered with an error: it executed nothing.
    class Refused < StandardError; end

    PAUSES = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0].freeze
    VERSION_5 = defined?(RedisClient) ? true : false
    TROUBLE = [Redis::BaseError, SystemCallError, IOError, SocketError, OpenSSL::SSL::SSLError,
               *(RedisClient::Error if VERSION_5)].freeze

    # @param attempt [Integer] 1, 2, …
    # @return [Float] seconds to wait after it
    def self.pause(attempt) = PAUSES.fetch(attempt - 1, PAUSES.last)

    # @return [Boolean] whether it was all right when it was last used
    attr_reader :open
    alias open? open

    # @return [Integer, nil] the id that Redis gave it; nil: not known
    attr_reader :id

    # @param redis [Redis, nil] whose settings are used instead of the url, in connections of our own
    def initialize(url, redis, clock)
      @redis = redis ? redis.dup : Redis.new(url: url, reconnect_attempts: 0)
      @clock = clock
      @open = false
      @ahead = []
      @driver = @patience = nil # the gem's connection, and how long it waits
    end

    # Connects, asks for Redis's clock and ends the connection that was lost before, if any.
    # @param patience [Float] seconds for each step
    # @return [Boolean] whether what was sent over the lost connection has an end
    # @raise [Lost]
    def reopen(patience)
      info, time = exchange([%w[CLIENT INFO], *Commands.clock], patience)
      @clock.set(Connection.value(time), @sent)
      ended = !@known || kill(patience)
      @known = @open = true
      @id, @address = info.is_a?(String) ? info.match(/\bid=(\d+) addr=(\S+)/)&.captures : nil
      ended
    rescue Refused => e # LOADING, say
      close
      raise Lost, e.message
    end

    # Has these commands sent in front of the next ones, in the same write; nobody needs their replies.
    def send_ahead(commands) = @ahead += commands

    # Sends all commands before it reads a reply.
    # @param patience [Float] seconds to wait for each reply, longer than a command may block [SABIR-TRANSPORT-2]
    # @yield [reply] each reply as it comes; a block that leaves early gives the connection up
    # @return [Array] the replies; a String holds the bytes as they were, an error reply is an Exception in its place
    # @raise [Lost]
    def exchange(commands, patience)
      replies = []
      ahead = @ahead.size
      @sent = Clock.monotonic
      send_all(ahead.zero? ? commands : @ahead + commands, patience)
      while ahead.positive?
        @driver.read
        ahead -= 1
      end
      commands.size.times do
        replies << (reply = @driver.read)
        yield reply if block_given?
      end
      @used = Clock.monotonic
      replies
    rescue *TROUBLE => e
      raise Lost, "#{e.class}: #{e.message}"
    ensure
      @ahead = []
      close if ahead.positive? || replies.size < commands.size
    end

    # @param command [Array<String>] an EVALSHA; its text is sent where Redis does not know it [SABIR-SCRIPT-1]
    # @return [Object] what the script answers
    # @raise [Lost, Refused]
    def script(command, patience)
      reply = exchange([command], patience).first
      unknown = reply.is_a?(Exception) && reply.message.start_with?("NOSCRIPT")
      reply = exchange([Commands.as_text(command)], patience).first if unknown
      Connection.value(reply)
    end

    # @return [Object] the reply itself
    # @raise [Refused] it is an error reply
    def self.value(reply) = reply.is_a?(Exception) ? raise(Refused, reply.message) : reply

    # @return [Float] when it last sent something, by {Clock.monotonic}
    attr_reader :sent

    # @return [Float] seconds since it was last used
    def idle = Clock.monotonic - @used

    def close
      @open = false
      @ahead = []
      @driver = @patience = nil
      @redis.close
    end

    # Closes it when what was to be sent ahead has been sent.
    def finish(patience)
      exchange([], patience) if @ahead.any?
    rescue Lost
      nil
    ensure
      close
    end

    private

    # Not by the id alone: after a restart of the server it may be somebody else's.
    # @return [Boolean] whether the connection before this one has come to its end
    def kill(patience)
      return false unless @id

      exchange([["CLIENT", "KILL", "ID", @id, "ADDR", @address]], patience).first.is_a?(Integer)
    end

    # Past the gem's wrappers for single commands, which cost more than the commands; what it does to connect stays.
    def send_all(commands, patience)
      @driver ||= connect(patience)
      self.patience = patience unless patience == @patience
      write(commands)
    end

    if VERSION_5
      def connect(patience)
        @redis._client.timeout = patience
        @redis._client.disable_reconnection { |driver| driver }
      end

      def patience=(seconds)
        @driver.read_timeout = @driver.write_timeout = @patience = seconds
      end

      def write(commands) = @driver.write_multi(commands)
    else
      # The gem's own driver writes each command by itself, and others might come between [SABIR-LEASE-2]; and it makes
      # a String of 16 KiB whenever it looks whether something has come.
      module Buffered
        END_OF_LINE = "\r\n".b.freeze
        LENGTHS = Array.new(1_024) { |length| "\r\n$#{length}\r\n".b.freeze }.freeze # those of nearly all parts
        COLON, DOLLAR, PLUS = ":$+".bytes
        CHUNK = 65_536

        def self.extended(driver) = driver.begin_reading

        def begin_reading
          @buffer = String.new(capacity: CHUNK, encoding: Encoding::BINARY) # what has been read from the socket
          @at = 0 # so much of it has been used
        end

        def write_all(commands)
          parts = []
          commands.each do |command|
            parts << "*#{command.size}"
            command.each do |part|
              length = part.bytesize
              parts << (LENGTHS[length] || "\r\n$#{length}\r\n") << (part.ascii_only? ? part : part.b)
            end
            parts << END_OF_LINE
          end
          @sock.write(parts.join)
        end

        # What comes most often does without the gem's way of telling it from the rest.
        def read
          fill until (ends = @buffer.index(END_OF_LINE, @at))
          kind = @buffer.getbyte(@at)
          line = @buffer.byteslice(@at + 1, ends - @at - 1)
          @at = ends + 2
          case kind
          when COLON then line.to_i
          when PLUS then line
          when DOLLAR then bulk(line.to_i)
          else format_reply(kind.chr, line)
          end
        end

        private

        def fill
          rest = @buffer.byteslice(@at, @buffer.bytesize) if @at < @buffer.bytesize
          @at = 0
          @sock._read_from_socket(CHUNK, @buffer)
          @buffer.prepend(rest) if rest
        end

        def bulk(size)
          return if size.negative?

          begins = @at
          missing = size + 2 - (@buffer.bytesize - begins)
          return long(size + 2).chop! if missing.positive? # the end of the line

          @at += size + 2
          @buffer.byteslice(begins, size)
        end

        # @param size [Integer] bytes, of which the buffer has not all
        def long(size)
          bytes = String.new(capacity: size, encoding: Encoding::BINARY) << @buffer.byteslice(@at, size)
          @at = @buffer.bytesize
          while (missing = size - bytes.bytesize).positive?
            fill
            @at = [missing, @buffer.bytesize].min
            bytes << (@at == @buffer.bytesize ? @buffer : @buffer.byteslice(0, @at))
          end
          bytes
        end
      end

      def connect(patience)
        client = @redis._client
        client.options.update(connect_timeout: patience, read_timeout: patience, write_timeout: patience)
        driver = client.without_reconnect { client.process([]) { client.connection } }
        driver.extend(Buffered) if driver.respond_to?(:build_command) # hiredis has none: it has its own
        driver
      end

      def patience=(seconds)
        @driver.timeout = @patience = seconds
      end

      def write(commands)
        @driver.is_a?(Buffered) ? @driver.write_all(commands) : commands.each { |command| @driver.write(command) }
      end
    end
  end
end
