# frozen_string_literal: true

require "helper"

# Every example of the README runs, and does what it says.
class ReadmeTest < LiveTest
  BLOCKS = File.read(File.join(ROOT, "README.md")).scan(/^```ruby\n(.*?)^```/m).flatten.freeze

  def test_the_examples
    serving, calling, testing = BLOCKS.map { |block| here(block) }
    assert_equal 3, BLOCKS.size
    worker = Process.spawn("ruby", "-w", "-I#{ROOT}/lib", "-e", serving, err: File::NULL)
    eventually("a worker") { @redis.exists(Sabir::Keys.new(@namespace, "bank").alive).positive? }
    code = [serving[/^class.*?^end\n/m], checked(calling), checked(testing)].join
    output, status = Open3.capture2e("ruby", "-w", "-I#{ROOT}/lib", "-rsabir", "-e", code)
    assert status.success?, output
    assert_equal 10, output.lines.count("ok\n"), output
  ensure
    Process.kill(:TERM, worker)
    Process.wait(worker)
  end

  private

  def here(block) = block.gsub(/url: "[^"]+"/, "url: #{TestServer.url.dump}, namespace: #{@namespace.dump}")

  # `expression # => value, remark` becomes an assertion.
  def checked(block)
    block.gsub(/^ *(?<code>\S.*?) *# => (?<value>\[.*\]|\{.*\}|[^,\n]+).*$/) do
      code, value = Regexp.last_match.values_at(:code, :value)
      "(#{code}) == (#{value}) ? puts('ok') : raise(#{code.dump})"
    end
  end
end
