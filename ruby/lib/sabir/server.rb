# frozen_string_literal: true

require "logger"
require "securerandom"
require_relative "connection"
require_relative "dispatch"

module Sabir
  # A flag that threads can wait for.
  # @api private
  class Flag
    def initialize
      @lock = Mutex.new
      @raised = ConditionVariable.new
      @up = false
    end

    def up? = @up

    def raise!
      @lock.synchronize do
        @up = true
        @raised.broadcast
      end
    end

    # @param seconds [Float, nil] at most so long, less when a signal comes; nil: for ever
    # @return [Boolean] whether it is up
    def wait(seconds)
      @lock.synchronize do
        @raised.wait(@lock, seconds) unless @up
        @up
      end
    end
  end

  # One worker: takes the requests of one service and runs the methods that were registered by hand.
  #
  #   server = Sabir::Server.new("calc")
  #   server.register("add") { |a, b| a + b }
  #   server.run
  #
  # Its threads share the work: the one that holds the take lock waits for an element, lets go of the lock and runs the
  # handler itself. So nothing is taken that can't be started at once [SABIR-WORKER-3].
  class Server
    MARGIN_S = 2.0 # how long Redis may take to answer, above what a command may block
    LAST_TRIES = 7 # attempts to say goodbye, some 6 s: the lease ends by itself

    # @return [String, nil] the worker's id; nil: it has not been started
    attr_reader :worker
    # @return [String]
    attr_reader :service
    # @api private
    attr_reader :dispatcher

    # @param redis [Redis, nil] whose settings are used instead of url; nil: url
    # @param name [String] the first part of the worker's id
    # @param threads [Integer] so many handlers run at a time
    # @param traces [Boolean] whether stack traces are sent to the caller [SABIR-WORKER-7]
    # @param logger [Logger, nil] nil: warnings go to stderr
    # @raise [ArgumentError] a name outside its grammar
    def initialize(service, url: Client::URL, redis: nil, namespace: "sabir", name: "worker", threads: 8, traces: false,
                   logger: nil, max_bytes: Messages::MAX_BYTES, max_depth: Messages::MAX_DEPTH)
      @keys = Keys.new(namespace, service)
      @service = service
      @name = Keys.check(:name, name)
      @size = threads
      @logger = logger || Logger.new($stderr, level: Logger::WARN, progname: "sabir")
      @dispatcher = Dispatcher.new(service, traces, @logger, { max_bytes: max_bytes, max_depth: max_depth })
      @clock = Clock.new
      @takes, @replies, @beats = Array.new(3) { Connection.new(url, redis, @clock) } # [SABIR-TRANSPORT-3]
      @stopping, @drained, @gone = Array.new(3) { Flag.new }
      @starting, @taking, @replying, @lock = Array.new(4) { Mutex.new }
      @held = Hash.new(0) # the elements in the hand that we know of, and how often
      @found = [] # those of them that nobody has begun
      @threads = []
      @troubles = {}
    end

    # @param name [String] the method's name on the wire
    # @param callable [#call, nil] nil: the block
    # @return [self]
    # @raise [ArgumentError] a name outside its grammar, kept for the protocol or registered before; nothing to call
    def register(name, callable = nil, &block)
      @dispatcher.register(name.to_s, callable || block)
      self
    end

    # @param only [Array<String>] the public methods of the object that are registered
    # @raise [ArgumentError, NameError]
    def expose(object, only:)
      only.each { |name| register(name, object.public_method(name)) }
      self
    end

    # Serves until SIGTERM or SIGINT, then stops; a second signal ends the process at once.
    # @yield once it serves, before anything is taken
    def run(&ready)
      signals = Queue.new
      before = %w[TERM INT].to_h { |name| [name, trap(name) { @stopping.up? ? exit!(1) : signals << name }] }
      Thread.new { signals.pop && stop }
      start(&ready)
      @gone.wait(nil) until @gone.up?
    ensure
      signals.close
      before.each { |name, handler| trap(name, handler) }
    end

    # Serves in threads of its own, once. Returns when the first heartbeat has been sent, however long Redis is away.
    # @yield once it serves, before anything is taken
    # @return [self]
    def start
      @starting.synchronize do
        raise "started already as #{@worker}" if @worker

        @worker = "#{@name}.#{SecureRandom.hex(8)}" # [SABIR-WORKER-1]
        trying("start", @stopping) { begin_with_a_beat } # [SABIR-LEASE-1]
        return self if @stopping.up?

        yield if block_given?
        @pulse = Thread.new { pulse }
        @threads = Array.new(@size) { Thread.new { work } }
      end
      self
    end

    # Takes nothing more, finishes what has begun, gives back what has not, and says goodbye [SABIR-STOP-1].
    # Returns when all that is done; so a handler calls it in another thread, if at all.
    def stop
      @stopping.raise!
      @starting.synchronize do
        wake until @threads.all? { |thread| thread.join(0.05) }
        @drained.raise!
        @pulse&.join
        trying("goodbye", nil, LAST_TRIES) { goodbye } if @pulse && !@gone.up?
        [@takes, @replies, @beats].each(&:close)
        @gone.raise!
      end
    end

    private

    def begin_with_a_beat
      beat
      [@takes, @replies].each { |line| line.open? || line.reopen(MARGIN_S) }
    end

    def pulse
      trying("heartbeat", @drained) { beat } until @drained.wait(Commands::HEARTBEAT_MS / 1000.0)
    end

    def work
      while (element = @taking.synchronize { take })
        commands = ending(element, @dispatcher.process(element, @worker, @clock))
        @replying.synchronize { settle(@replies, commands, element) }
      end
    end

    def ending(element, outcome)
      return Commands.reply(@keys, @worker, outcome.reply_to, outcome.reply, element) if outcome.reply
      return Commands.bury(@keys, @worker, outcome.letter, element) if outcome.letter

      Commands.acknowledge(@keys, @worker, element)
    end

    # @return [String, nil] the bytes of an element to start at once; nil: there is to be no more
    def take
      until @stopping.up?
        element = @found.shift || trying("take", @stopping) { take_one }
        return element if element && !@stopping.up?
      end
      # What nobody has begun was taken last, and is the end of the hand [SABIR-STOP-3].
      [element, *@found].compact.reverse_each { |last| settle(@takes, Commands.give_back(@keys, @worker), last) }
      nil
    end

    def take_one
      unless @takes.open?
        known = @lock.synchronize { @held.dup }
        unseen = look(@takes).reject { |element| (known[element] -= 1) >= 0 } # [SABIR-LOST-3]
        @found.concat(unseen.each { |element| hold(element) })
        return @found.shift unless @found.empty?
      end
      renewed, element = @takes.exchange(Commands.take(@keys, @worker, lease_ends, Commands::TAKE_MS), 2 * MARGIN_S)
      return hold(element.b) if element.is_a?(String)

      [element, renewed].each { |reply| Connection.value(reply) }
      nil
    end

    # Ends an element's stay in the hand. What was lost on the way is sent again only while the element is still there,
    # and nothing can happen any more on the lost connection [SABIR-LOST-4].
    def settle(line, commands, element)
      sent = false
      trying("reply") do
        hand = look(line) if sent || !line.open?
        next if sent && hand && hand.count(element) < @held[element]

        sent = true
        answer = Connection.value(line.exchange(commands, MARGIN_S).last)
        # To a key of another type, say: as if it had been pushed [SABIR-WORKER-6].
        Array(answer).grep(Exception).first(1).each { |error| @logger.warn("reply: refused: #{error.message}") }
      end
      @lock.synchronize { (@held[element] -= 1).positive? || @held.delete(element) }
    end

    # @return [Array<String>] the hand
    def look(line)
      line.open? || line.reopen(MARGIN_S) || sleep(Commands::TAKE_MS / 1000.0)
      Connection.value(line.exchange(Commands.read_hand(@keys, @worker), MARGIN_S).first).map(&:b)
    rescue Connection::Refused
      line.close # or the next attempt would not look again
      raise
    end

    def hold(element)
      @lock.synchronize { @held[element] += 1 }
      element
    end

    def lease_ends = @clock.now_ms + Commands::LEASE_MS

    def beat
      @beats.open? || @beats.reopen(MARGIN_S)
      answer = Connection.value(@beats.exchange(Commands.heartbeat(@keys, @worker, lease_ends), MARGIN_S).last)
      @clock.set(answer.first, @beats.sent)
      answer.each { |part| Connection.value(part) } # a key of the wrong type, say
    end

    # Ends the wait of the thread that waits for an element. Where that fails, the block time ends it.
    def wake
      return unless @taking.locked? && @replying.try_lock

      begin
        @replies.exchange([["CLIENT", "UNBLOCK", @takes.id.to_s]], MARGIN_S) if @replies.open? && @takes.id
      rescue Connection::Lost
        nil
      ensure
        @replying.unlock
      end
    end

    # All handlers have ended: what the hand still holds, nobody has begun. And no lost heartbeat may come late.
    def goodbye
      @beats.open? || @beats.reopen(MARGIN_S)
      look(@takes).reverse_each { |element| settle(@takes, Commands.give_back(@keys, @worker), element) }
      Connection.value(@takes.exchange(Commands.goodbye(@keys, @worker), MARGIN_S).last) # [SABIR-STOP-4]
    end

    # Tries again with a growing pause [SABIR-WORKER-6], until the flag is up.
    # @return [Object, nil] what the block returns; nil: the flag is up, or the tries are used up
    def trying(what, flag = nil, tries = Float::INFINITY)
      attempt = 0
      begin
        result = yield
        @logger.warn("#{what}: works again") if @troubles.delete(what)
        result
      rescue Connection::Lost, Connection::Refused => e
        trouble(what, e)
        pause = Connection.pause(attempt += 1)
        return if attempt >= tries || (flag ? flag.wait(pause) : sleep(pause).nil?)

        retry
      end
    end

    # Says it once, not at each attempt.
    def trouble(what, error)
      @logger.warn("#{what}: #{error.message}; trying again") unless @troubles[what]
      @troubles[what] = true
    end
  end
end
